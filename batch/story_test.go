package batch_test

func storyMain() int { return 0 }

func bombMain() int { return 0 }
