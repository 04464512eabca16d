//go:build darwin || freebsd

package sock

import "net"

// InterfaceIndex returns the index of an interface.
func (s *Socket) InterfaceIndex(name string) (int, error) {
	i, err := net.InterfaceByName(name)
	if err != nil {
		return 0, err
	}
	return i.Index, nil
}

func (s *Socket) interfaceName(index uint32) string {
	i, err := net.InterfaceByIndex(int(index))
	if err != nil {
		return ""
	}
	return i.Name
}
