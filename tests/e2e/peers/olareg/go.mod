module crivet.dev/tests/e2e/peers/olareg

go 1.26.2

require github.com/olareg/olareg v0.2.1

require (
	github.com/goccy/go-yaml v1.19.2 // indirect
	github.com/sudo-bmitch/oci-digest v0.1.2 // indirect
	golang.org/x/crypto v0.50.0 // indirect
)
