//go:build !race

package sock

func raceBeforeSend()             {}
func raceAfterSend([]byte)        {}
func raceAfterRecv([]byte)        {}
func (*gather) raceAfterSend(int) {}
