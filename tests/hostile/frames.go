package main

import (
	"time"

	"golang.org/x/net/http2"
)

// frames are floods of cheap frames, and frames that may not be.
func frames() []attack {
	many := 50
	return []attack{
		{
			name: "rapid-reset", bound: "1000 calls reset within 1 s of their start beyond those completed; 100 not looked at", want: "GOAWAY ENHANCE_YOUR_CALM",
			run: func(a *arena) {
				a.connections(many, func(w *wire) error {
					return a.forever(w, func() error {
						id, err := w.open(grpcHead(pathWatch), false)
						if err == nil {
							err = w.framer.WriteRSTStream(id, http2.ErrCodeCancel)
						}
						return err
					})
				})
			},
			check: goesAway(http2.ErrCodeEnhanceYourCalm),
		},
		{
			name: "made-you-reset", bound: "an increment of 0 is no stream error", want: "GOAWAY PROTOCOL_ERROR",
			run: func(a *arena) {
				a.connections(many, func(w *wire) error {
					return a.forever(w, func() error {
						id, err := w.call(pathWatch, watchMessage, false)
						if err == nil {
							// No increment at all: the server has to reset the stream.
							err = w.framer.WriteRawFrame(http2.FrameWindowUpdate, 0, id, []byte{0, 0, 0, 0})
						}
						return err
					})
				})
			},
			check: goesAway(http2.ErrCodeProtocol),
		},
		{
			name: "made-you-reset-window", bound: "1024 resets by the server", want: "GOAWAY ENHANCE_YOUR_CALM",
			run: func(a *arena) {
				a.connections(many, func(w *wire) error {
					return a.forever(w, func() error {
						id, err := w.call(pathWatch, watchMessage, false)
						if err == nil {
							err = w.framer.WriteWindowUpdate(id, 1<<31-1)
						}
						return err
					})
				})
			},
			check: goesAway(http2.ErrCodeEnhanceYourCalm),
		},
		{
			name: "settings-flood", bound: "one SETTINGS at a time: nothing is read while its answer can't be written", want: "stays, unread",
			run: func(a *arena) {
				a.silent(many, func(w *wire) error {
					return a.forever(w, func() error {
						return w.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 65535})
					})
				})
			},
			check: anyEnd,
		},
		{
			name: "ping-flood", bound: "2 pings before their time", want: "GOAWAY ENHANCE_YOUR_CALM too_many_pings",
			run: func(a *arena) {
				a.connections(many, func(w *wire) error {
					return a.forever(w, func() error { return w.framer.WritePing(false, [8]byte{}) })
				})
			},
			check: goesAway(http2.ErrCodeEnhanceYourCalm),
		},
		{
			name: "priority-flood", bound: "nothing is kept", want: "stays",
			run: func(a *arena) {
				a.connections(many, func(w *wire) error {
					id, err := w.call(pathWatch, watchMessage, false)
					if err != nil {
						return err
					}
					return a.forever(w, func() error {
						return w.framer.WritePriority(id, http2.PriorityParam{Weight: 7})
					})
				})
			},
			check: anyEnd,
		},
		{
			name: "window-update-flood", bound: "window of 2^31-1", want: "GOAWAY FLOW_CONTROL_ERROR",
			run: func(a *arena) {
				a.connections(many, func(w *wire) error {
					return a.forever(w, func() error { return w.framer.WriteWindowUpdate(0, 1<<20) })
				})
			},
			check: goesAway(http2.ErrCodeFlowControl),
		},
		{
			name: "empty-data", bound: "nothing is kept; h2 counts them", want: "GOAWAY ENHANCE_YOUR_CALM",
			run: func(a *arena) {
				a.connections(many, func(w *wire) error {
					id, err := w.call(pathWatch, watchMessage, false)
					if err != nil {
						return err
					}
					return a.forever(w, func() error { return w.framer.WriteData(id, false, nil) })
				})
			},
			check: goesAway(http2.ErrCodeEnhanceYourCalm),
		},
		{
			name: "unknown-frames", long: true, bound: "nothing is kept", want: "stays",
			run: func(a *arena) {
				payload := make([]byte, 16<<10)
				a.connections(many, func(w *wire) error {
					return a.forever(w, func() error { return w.framer.WriteRawFrame(0xf7, 0xff, 0, payload) })
				})
			},
			check: stays,
		},
		{
			name: "oversize-frame", long: true, bound: "16 KiB a frame", want: "GOAWAY FRAME_SIZE_ERROR",
			run: func(a *arena) {
				payload := make([]byte, 20<<10)
				a.connections(many, func(w *wire) error {
					if err := w.framer.WriteRawFrame(http2.FrameHeaders, 4, 1, payload); err != nil {
						return err
					}
					return orGone(a, w)
				})
			},
			check: goesAway(http2.ErrCodeFrameSize),
		},
		{
			name: "push-promise", long: true, bound: "none from a client", want: "GOAWAY PROTOCOL_ERROR",
			run: func(a *arena) {
				a.connections(many, func(w *wire) error {
					err := w.framer.WritePushPromise(http2.PushPromiseParam{StreamID: 1, PromiseID: 2, BlockFragment: w.encode(grpcHead(pathPut)), EndHeaders: true})
					if err != nil {
						return err
					}
					return orGone(a, w)
				})
			},
			check: goesAway(http2.ErrCodeProtocol),
		},
		{
			name: "stream-id-reuse", bound: "ids ascend", want: "GOAWAY PROTOCOL_ERROR or STREAM_CLOSED",
			run: func(a *arena) {
				a.connections(many, func(w *wire) error {
					for range 3 {
						if err := w.headers(1, w.encode(grpcHead(pathPut)), true); err != nil {
							return err
						}
					}
					return orGone(a, w)
				})
			},
			check: goesAway(http2.ErrCodeProtocol, http2.ErrCodeStreamClosed),
		},
		{
			name: "stream-id-even", long: true, bound: "a client's ids are odd", want: "GOAWAY PROTOCOL_ERROR",
			run: func(a *arena) {
				a.connections(many, func(w *wire) error {
					if err := w.headers(2, w.encode(grpcHead(pathPut)), true); err != nil {
						return err
					}
					return orGone(a, w)
				})
			},
			check: goesAway(http2.ErrCodeProtocol),
		},
		{
			name: "stream-id-exhaustion", long: true, bound: "2^31-1 is the last id", want: "the last call is answered, a call behind it ends the connection",
			run: func(a *arena) {
				a.connections(many, func(w *wire) error {
					w.next = 1<<31 - 1
					if _, err := w.call(pathPut, putMessage, true); err != nil {
						return err
					}
					if err := w.flush(); err != nil {
						return err
					}
					if err := w.headers(1, w.encode(grpcHead(pathPut)), true); err != nil {
						return err
					}
					return orGone(a, w)
				})
			},
			check: goesAway(http2.ErrCodeProtocol, http2.ErrCodeStreamClosed),
		},
		{
			name: "goaway-games", long: true, bound: "a GOAWAY ends new calls; ids in it don't ascend", want: "GOAWAY PROTOCOL_ERROR, or closed",
			run: func(a *arena) {
				a.connections(many, func(w *wire) error {
					for last := uint32(1); ; last += 2 {
						if err := w.framer.WriteGoAway(last, http2.ErrCodeNo, nil); err != nil {
							return err
						}
						if _, err := w.call(pathPut, putMessage, true); err != nil {
							return err
						}
						if err := w.flush(); err != nil {
							return err
						}
					}
				})
			},
			check: anyEnd,
		},
		{
			name: "data-without-stream", long: true, bound: "DATA for open calls only", want: "GOAWAY PROTOCOL_ERROR",
			run: func(a *arena) {
				a.connections(many, func(w *wire) error {
					if err := w.framer.WriteData(77, false, putMessage); err != nil {
						return err
					}
					return orGone(a, w)
				})
			},
			check: goesAway(http2.ErrCodeProtocol),
		},
		{
			name: "window-overrun", long: true, bound: "the window of a stream and of the connection", want: "RST_STREAM or GOAWAY FLOW_CONTROL_ERROR",
			run: func(a *arena) {
				payload := make([]byte, 16<<10)
				a.connections(many, func(w *wire) error {
					id, err := w.open(grpcHead(pathWatch), false)
					if err != nil {
						return err
					}
					return a.forever(w, func() error { return w.framer.WriteData(id, false, payload) })
				})
			},
			check: anyEnd,
		},
	}
}

// interval is between looks at whether a connection is still there.
const interval = time.Millisecond

// orGone sends what is there and waits until the server has ended the connection.
func orGone(a *arena, w *wire) error {
	if err := w.flush(); err != nil {
		return err
	}
	return a.forever(w, func() error {
		a.pause(interval)
		return w.framer.WriteRawFrame(0xf7, 0, 0, nil)
	})
}
