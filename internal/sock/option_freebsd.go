package sock

import "golang.org/x/sys/unix"

// KeepIdle is the option for the keep-alive idle time, which has another name on each
// system.
const KeepIdle = unix.TCP_KEEPIDLE
