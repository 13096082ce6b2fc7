// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// Frame is what one packet on the wire is, as far as its outermost headers tell.
type Frame struct {
	From, To netip.Addr
	Protocol byte // of IPv4 or the first header of IPv6
	// SourcePort and Port are those of TCP and UDP; Payload follows UDP's header.
	SourcePort, Port uint16
	Payload          []byte
}

// VNI is the network identifier of a VXLAN packet (RFC 7348), and whether it is one.
func (f Frame) VNI(port uint16) (vni uint32, ok bool) {
	if f.Protocol != unix.IPPROTO_UDP || f.Port != port || len(f.Payload) < 8 {
		return 0, false
	}
	return binary.BigEndian.Uint32(f.Payload[4:]) >> 8, true
}

// Capture shows all frames that pass the wire while do runs, and for a moment after.
func (w *Wire) Capture(ctx context.Context, do func() error) (frames []Frame, err error) {
	socket := -1
	err = w.Do(func() error {
		socket, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, int(swapped(unix.ETH_P_ALL)))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listen on the wire: %w", err)
	}
	defer func() { _ = unix.Close(socket) }()
	err = do()
	for end := time.Now().Add(100 * time.Millisecond); time.Now().Before(end) && ctx.Err() == nil; {
		buffer := make([]byte, 2048)
		n, _, recvErr := unix.Recvfrom(socket, buffer, unix.MSG_DONTWAIT)
		if errors.Is(recvErr, unix.EAGAIN) {
			time.Sleep(5 * time.Millisecond)
			continue
		}
		if recvErr != nil {
			return nil, errors.Join(err, recvErr)
		}
		if f, ok := parseFrame(buffer[:n]); ok {
			frames = append(frames, f)
		}
	}
	return frames, err
}

func swapped(v uint16) uint16 { return v<<8 | v>>8 }

// parseFrame reads a packet that begins with its IP header.
func parseFrame(p []byte) (f Frame, ok bool) {
	var rest []byte
	switch {
	case len(p) >= 20 && p[0]>>4 == 4 && len(p) >= int(p[0]&15)*4:
		f.From, f.To = netip.AddrFrom4([4]byte(p[12:])), netip.AddrFrom4([4]byte(p[16:]))
		f.Protocol, rest = p[9], p[int(p[0]&15)*4:]
	case len(p) >= 40 && p[0]>>4 == 6:
		f.From, f.To = netip.AddrFrom16([16]byte(p[8:])), netip.AddrFrom16([16]byte(p[24:]))
		f.Protocol, rest = p[6], p[40:]
	default:
		return f, false
	}
	if (f.Protocol == unix.IPPROTO_UDP || f.Protocol == unix.IPPROTO_TCP) && len(rest) >= 8 {
		f.SourcePort, f.Port, f.Payload = binary.BigEndian.Uint16(rest), binary.BigEndian.Uint16(rest[2:]), rest[8:]
	}
	return f, true
}
