package main

import "time"

// The drivers, what they need, and the edits by which they dial with the package dials.
// An edit is at the place where the driver makes or uses its default net.Dialer.
var drivers = []driver{
	{
		name:   "go-redis",
		module: "github.com/redis/go-redis/v9",
		serve:  serveRedis,
		edits: []edit{
			{file: "options.go", from: "netDialer.DialContext(ctx, ", to: "suites.By(netDialer)(ctx, "},
			{file: "sentinel.go", from: "netDialer.DialContext(ctx, ", to: "suites.By(netDialer)(ctx, "},
			// The tests' own dialers, and what asks the port to see whether there is a server.
			{file: "redis_test.go", from: "return d.DialContext(ctx, network, addr)", to: "return suites.By(&d)(ctx, network, addr)"},
			{file: "redis_test.go", from: `net.Dial("tcp", options.Addr)`, to: `suites.Plain{Dialer: &net.Dialer{}}.Dial("tcp", options.Addr)`},
			{file: "pipeline_exec_test.go", from: "(&net.Dialer{}).DialContext(ctx, ", to: "suites.By(&net.Dialer{})(ctx, "},
			{file: "autopipeline_test.go", from: "(&net.Dialer{}).DialContext(ctx, ", to: "suites.By(&net.Dialer{})(ctx, "},
			{file: "autopipeline_fullduplex_test.go", from: `net.Dial("tcp", backend)`, to: `net.Dial("tcp", suites.Address(backend))`},
			{file: "probe_test.go", from: `"tcp", addr,`, to: `"tcp", suites.Address(addr),`},
			{file: "probe_internal_test.go", from: `"tcp", addr,`, to: `"tcp", suites.Address(addr),`},
		},
		suites: []suite{{
			dir: ".", specs: true, limit: 10 * time.Minute,
			// Specs that need a cluster, sentinels, a ring of servers or modules.
			args: []string{
				"-ginkgo.skip-file=osscluster|sentinel|ring_test|tls_|search|json_test|probabilistic|timeseries|vectorset|hotkeys",
				"-ginkgo.skip=Cluster|cluster|Ring|failover servers",
			},
			notThis: "^Example", why: "as the driver's authors do: one panics without a newer server, and ends the others",
		}},
	},
	{
		name:   "redigo",
		module: "github.com/gomodule/redigo",
		serve:  lendRedis,
		edits: []edit{
			{file: "redis/conn.go", from: "= do.dialer.DialContext", to: "= suites.By(do.dialer)"},
		},
		suites: []suite{{dir: "redis", limit: 3 * time.Minute}},
	},
	{
		name:   "pgx",
		module: "github.com/jackc/pgx/v5",
		serve:  servePGX,
		edits: []edit{
			{file: "pgconn/config.go", from: "= defaultDialer.DialContext", to: "= suites.By(defaultDialer)"},
			{file: "pgconn/config.go", from: "return d.DialContext", to: "return suites.By(d)"},
		},
		suites: []suite{
			{dir: "pgconn", limit: 5 * time.Minute},
			{dir: ".", limit: 5 * time.Minute},
			{dir: "pgxpool", limit: 5 * time.Minute},
			{dir: "stdlib", limit: 5 * time.Minute},
			{dir: "pgtype", limit: 5 * time.Minute},
		},
	},
	{
		name:   "pq",
		module: "github.com/lib/pq",
		serve:  servePQ,
		edits: []edit{
			{file: "conn.go", from: "d.d.DialContext(ctx, ", to: "suites.By(&d.d)(ctx, "},
			{file: "conn.go", from: "d.d.Dial(network", to: "suites.Plain{Dialer: &d.d}.Dial(network"},
		},
		suites: []suite{{dir: ".", limit: 5 * time.Minute}},
	},
	{
		name:   "mysql",
		module: "github.com/go-sql-driver/mysql",
		serve:  serveMariaDB,
		edits: []edit{
			{file: "connector.go", from: "nd.DialContext(dctx, ", to: "suites.By(&nd)(dctx, "},
		},
		suites: []suite{{
			dir: ".", limit: 10 * time.Minute,
			notThis: "^TestConnectorReturnsTimeout$", why: "it dials an address on the Internet",
		}},
	},
	{
		name:   "gomemcache",
		module: "github.com/bradfitz/gomemcache",
		serve:  serveMemcached,
		edits: []edit{
			{file: "memcache/memcache.go", from: "= dialer.DialContext", to: "= suites.By(&dialer)"},
			{file: "memcache/memcache_test.go", from: `net.Dial("tcp", localhostTCPAddr)`, to: `net.Dial("tcp", suites.Address(localhostTCPAddr))`},
			// As root, memcached requires -u.
			{file: "memcache/memcache_test.go", from: `"-s", sock)`, to: `"-s", sock, "-u", "root")`},
			{file: "memcache/memcache_test.go", from: `"--listen=127.0.0.1",`, to: `"--listen=127.0.0.1", "-u", "root",`},
		},
		suites: []suite{{dir: "memcache", limit: 3 * time.Minute}},
	},
	{
		name:   "nats",
		module: "github.com/nats-io/nats.go",
		modFor: "go_test.mod",
		edits: []edit{
			{file: "nats.go", from: "dialer = &copyDialer", to: "dialer = suites.Plain{Dialer: &copyDialer}"},
		},
		suites: []suite{{dir: "test", limit: 15 * time.Minute}},
	},
	{
		name:   "dns",
		module: "github.com/miekg/dns",
		edits: []edit{
			{file: "client.go", from: "= tlsDialer.DialContext(ctx, ", to: "= suites.ByTLS(&tlsDialer)(ctx, "},
			{file: "client.go", from: "= d.DialContext(ctx, ", to: "= suites.By(&d)(ctx, "},
			{file: "client.go", from: "= net.Dial(network, address)", to: "= suites.Plain{Dialer: &net.Dialer{}}.Dial(network, address)"},
		},
		suites: []suite{{dir: ".", limit: 5 * time.Minute}},
	},
	{
		name:   "grpc",
		module: "google.golang.org/grpc",
		edits: []edit{
			{file: "internal/transport/http2_client.go", from: "internal.NetDialerWithTCPKeepalive().DialContext(ctx, ", to: "suites.By(internal.NetDialerWithTCPKeepalive())(ctx, "},
			{file: "internal/transport/proxy.go", from: "internal.NetDialerWithTCPKeepalive().DialContext(ctx, ", to: "suites.By(internal.NetDialerWithTCPKeepalive())(ctx, "},
		},
		suites: []suite{
			{dir: "internal/transport", limit: 10 * time.Minute},
			{dir: ".", limit: 10 * time.Minute},
			{dir: "test", limit: 15 * time.Minute},
		},
		known: map[string]string{
			"internal/transport Test/TCPUserTimeout": "grpc sets and reads TCP_USER_TIMEOUT of a *net.TCPConn only; for a client it is Options.UserTimeout",
		},
	},
}
