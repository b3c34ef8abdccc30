package main

import (
	"errors"
	"fmt"
	"math/rand"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"ringstone.test/internal/loopdisk"
)

const (
	// hostNode is where the clients are: this process.
	hostNode = 254
	subnet   = "10.77.0."
	mtu      = 1500
	udp      = 17
)

// link is a direction between two nodes.
type link struct{ from, to int }

// weather is what the network does to packets between members. It is replaced as a whole and never changed. Clients reach
// every member at all times.
type weather struct {
	// cut links carry nothing, those of noUDP all but UDP.
	cut, noUDP map[link]bool
	// loss and double are parts of 1.
	loss, double float64
	// Each packet is late by up to this, so packets overtake each other.
	delayMax time.Duration
}

// network is namespaces that are joined by a switch which this process is: each has one interface (TUN), whose packets are read
// here and written to the interface of the namespace that they are for.
type network struct {
	nodes   map[int]*node
	weather atomic.Pointer[weather]
	lock    sync.Mutex
	random  *rand.Rand
	// Packets that the weather has eaten.
	eaten atomic.Int64
}

// node is a namespace, kept by a thread of this process that never leaves it: processes of the node are started by it.
type node struct {
	number int
	tun    *os.File
	calls  chan func()
}

func address(number int) string { return fmt.Sprint(subnet, number) }

// newNetwork makes nodes 1 to `members` and that of the host. It must run in a network namespace of its own.
func newNetwork(members int, seed int64) (*network, error) {
	n := &network{nodes: map[int]*node{}, random: rand.New(rand.NewSource(seed))}
	n.weather.Store(&weather{})
	tun, err := openTun(address(hostNode))
	if err != nil {
		return nil, err
	}
	n.nodes[hostNode] = &node{number: hostNode, tun: tun}
	for i := range members {
		made, err := newNode(i + 1)
		if err != nil {
			return nil, err
		}
		n.nodes[i+1] = made
	}
	for _, each := range n.nodes {
		go n.carry(each)
	}
	return n, nil
}

func newNode(number int) (*node, error) {
	made := &node{number: number, calls: make(chan func())}
	ready := make(chan error)
	go func() {
		// Never unlocked: the thread ends with the process, and until then the namespace and its processes have it.
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			err = loopdisk.Command("ip", "link", "set", "lo", "up")
		}
		if err == nil {
			made.tun, err = openTun(address(number))
		}
		ready <- err
		for call := range made.calls {
			call()
		}
	}()
	return made, <-ready
}

// openTun makes the interface of the namespace that this thread is in.
func openTun(own string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("/dev/net/tun: %w", err)
	}
	request, err := unix.NewIfreq("tun0")
	if err == nil {
		request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	}
	if err == nil {
		err = loopdisk.Command("ip", "address", "add", own+"/24", "dev", "tun0")
	}
	if err == nil {
		err = loopdisk.Command("ip", "link", "set", "tun0", "mtu", fmt.Sprint(mtu), "txqueuelen", "4096", "up")
	}
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), "tun"), nil
}

// start starts a process in the namespace.
func (n *node) start(process *exec.Cmd) error {
	done := make(chan error)
	n.calls <- func() { done <- process.Start() }
	return <-done
}

// carry brings the packets of a node to where they are for.
func (n *network) carry(from *node) {
	packet := make([]byte, mtu+100)
	for {
		length, err := from.tun.Read(packet)
		if err != nil {
			return
		}
		// IPv4 alone; the interface's own IPv6 noise is nobody's.
		if length < 20 || packet[0]>>4 != 4 {
			continue
		}
		to := n.nodes[int(packet[19])]
		if to == nil {
			continue
		}
		copies, late := n.fate(link{from.number, to.number}, packet[9])
		for range copies {
			if late == 0 {
				_, _ = to.tun.Write(packet[:length])
				continue
			}
			held := append([]byte(nil), packet[:length]...)
			time.AfterFunc(n.draw(late), func() { _, _ = to.tun.Write(held) })
		}
	}
}

// fate is how many times a packet arrives, and by how much late at most.
func (n *network) fate(way link, protocol byte) (copies int, late time.Duration) {
	now := n.weather.Load()
	if way.from == hostNode || way.to == hostNode {
		return 1, 0
	}
	if now.cut[way] || protocol == udp && now.noUDP[way] {
		n.eaten.Add(1)
		return 0, 0
	}
	if now.loss == 0 && now.double == 0 {
		return 1, now.delayMax
	}
	n.lock.Lock()
	dice := n.random.Float64()
	n.lock.Unlock()
	switch {
	case dice < now.loss:
		n.eaten.Add(1)
		return 0, 0
	case dice < now.loss+now.double:
		return 2, now.delayMax
	default:
		return 1, now.delayMax
	}
}

func (n *network) draw(late time.Duration) time.Duration {
	n.lock.Lock()
	defer n.lock.Unlock()
	return time.Duration(n.random.Int63n(int64(late)))
}

func (n *network) set(w weather) { n.weather.Store(&w) }
func (n *network) heal()         { n.set(weather{}) }

// between is both directions between each of some members and each of others, by their indices.
func between(some, others []int) map[link]bool {
	cut := map[link]bool{}
	for _, a := range some {
		for _, b := range others {
			cut[link{a + 1, b + 1}], cut[link{b + 1, a + 1}] = true, true
		}
	}
	return cut
}

// oneWay is the direction from each of some members to each of others.
func oneWay(some, others []int) map[link]bool {
	cut := map[link]bool{}
	for _, a := range some {
		for _, b := range others {
			cut[link{a + 1, b + 1}] = true
		}
	}
	return cut
}
