package project

import (
	"embed"
	"path"
)

//go:embed jsonschema/*.json
var schemaFiles embed.FS

// Schemas returns the published JSON Schemas of the YAML files by file name:
// duet.schema.json, stream.schema.json and view.schema.json. A YAML file names
// its own in a first line, for editors:
//
//	# yaml-language-server: $schema=stream.schema.json
func Schemas() map[string]string {
	schemas := map[string]string{}
	for _, name := range []string{"duet.schema.json", "stream.schema.json", "view.schema.json"} {
		text, err := schemaFiles.ReadFile(path.Join("jsonschema", name))
		if err != nil {
			panic("jsonschema/" + name + " is not embedded: " + err.Error()) // cannot happen: the files are embedded
		}
		schemas[name] = string(text)
	}
	return schemas
}
