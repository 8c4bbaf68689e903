package speed

import (
	"container/list"

	"duet/schemas"
)

// sessions holds the accounts of the most recently counted sessions.
type sessions struct {
	most   int
	byName map[string]*list.Element
	order  *list.List // of *session, the least recently counted first
}

type session struct {
	name    string
	account schemas.Account
}

func newSessions(most int) *sessions {
	return &sessions{most: most, byName: map[string]*list.Element{}, order: list.New()}
}

func (s *sessions) add(name string, a schemas.Account) {
	e := s.byName[name]
	if e == nil {
		e = s.order.PushBack(&session{name: name})
		s.byName[name] = e
	} else {
		s.order.MoveToBack(e)
	}
	e.Value.(*session).account.Add(a)
	for s.order.Len() > s.most {
		oldest := s.order.Front()
		delete(s.byName, oldest.Value.(*session).name)
		s.order.Remove(oldest)
	}
}

func (s *sessions) get(name string) schemas.Account {
	if e := s.byName[name]; e != nil {
		return e.Value.(*session).account
	}
	return schemas.Account{}
}
