package sock

import "golang.org/x/sys/unix"

// KeepIdle is the option of setsockopt(2) that systems name differently.
const KeepIdle = unix.TCP_KEEPIDLE
