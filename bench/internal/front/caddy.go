package front

import (
	"encoding/json"
	"fmt"
	"net"

	"github.com/blocksock/client/bench/internal/sample"
	"github.com/caddyserver/caddy/v2"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"         // the proxy handler,
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy/fastcgi" // and its FastCGI transport
)

// caddyFront runs Caddy in front of the php-fpm at Address. Files[0] is the document root.
func caddyFront(s *sample.Spec) error {
	ln, err := net.Listen("tcp", "127.0.0.1:0") // to find a free port
	if err != nil {
		return err
	}
	address := ln.Addr().String()
	if err := ln.Close(); err != nil {
		return err
	}
	type object = map[string]any
	config, err := json.Marshal(object{
		"admin":   object{"disabled": true},
		"logging": object{"logs": object{"default": object{"level": "ERROR"}}},
		"apps": object{"http": object{"servers": object{"s": object{
			"listen":          []string{address},
			"automatic_https": object{"disable": true},
			"routes": []object{{"handle": []object{{
				"handler":   "reverse_proxy",
				"upstreams": []object{{"dial": s.Network + "/" + s.Address}},
				"transport": object{"protocol": "fastcgi", "root": s.Files[0], "split_path": []string{".php"}},
			}}}},
		}}}},
	})
	if err != nil {
		return err
	}
	if err := caddy.Load(config, true); err != nil {
		return err
	}
	fmt.Println(address)
	select {}
}
