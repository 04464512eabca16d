module github.com/blocksock/client/examples/udp

go 1.25.0

require (
	github.com/blocksock/client v0.0.0
	github.com/blocksock/client/dtls v0.0.0
	github.com/pion/dtls/v3 v3.1.15
	github.com/stretchr/testify v1.12.1
	golang.org/x/net v0.58.0
	golang.org/x/sys v0.47.0
)

require (
	github.com/pion/logging v0.2.4 // indirect
	github.com/pion/transport/v5 v5.0.0 // indirect
	github.com/youmark/pkcs8 v0.0.0-20240726163527-a2c0da244d78 // indirect
	go.yaml.in/yaml/v3 v3.0.5 // indirect
	golang.org/x/crypto v0.55.0 // indirect
)

replace (
	github.com/blocksock/client => ../../
	github.com/blocksock/client/dtls => ../../dtls
)
