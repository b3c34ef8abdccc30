package main

import (
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"strings"
)

const blockBytes = 4096

// image is a folder in memory: files by their path below it, blocks of zeros left out.
type image map[string]*content

type content struct {
	bytes  int64
	blocks map[int64][]byte
}

func readImage(folder string) (image, error) {
	found := image{}
	err := filepath.Walk(folder, func(path string, info os.FileInfo, err error) error {
		if err != nil || info.IsDir() {
			return err
		}
		all, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(folder, path)
		if err != nil {
			return err
		}
		file := &content{bytes: int64(len(all)), blocks: map[int64][]byte{}}
		for at := 0; at < len(all); at += blockBytes {
			block := all[at:min(at+blockBytes, len(all))]
			for _, one := range block {
				if one != 0 {
					file.blocks[int64(at/blockBytes)] = append([]byte(nil), block...)
					break
				}
			}
		}
		found[name] = file
		return nil
	})
	return found, err
}

// write makes the folder anew.
func (i image) write(folder string) error {
	if err := os.RemoveAll(folder); err != nil {
		return err
	}
	for name, file := range i {
		path := filepath.Join(folder, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		if err := file.write(path); err != nil {
			return err
		}
	}
	return os.MkdirAll(filepath.Join(folder, "member", "wal"), 0o700)
}

func (c *content) write(path string) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := file.Truncate(c.bytes); err != nil {
		return err
	}
	for block, bytes := range c.blocks {
		if _, err := file.WriteAt(bytes, block*blockBytes); err != nil {
			return err
		}
	}
	return nil
}

func (c *content) block(number int64) []byte {
	if bytes, ok := c.blocks[number]; ok {
		return append([]byte(nil), bytes...)
	}
	return make([]byte, min(blockBytes, c.bytes-number*blockBytes))
}

// with is a copy in which one block is another.
func (c *content) with(number int64, bytes []byte) *content {
	changed := &content{bytes: c.bytes, blocks: map[int64][]byte{}}
	for at, old := range c.blocks {
		changed.blocks[at] = old
	}
	changed.blocks[number] = bytes[:min(int64(len(bytes)), c.bytes-number*blockBytes)]
	return changed
}

func (c *content) cut(bytes int64) *content {
	changed := &content{bytes: bytes, blocks: map[int64][]byte{}}
	for at, old := range c.blocks {
		if at*blockBytes < bytes {
			changed.blocks[at] = old[:min(int64(len(old)), bytes-at*blockBytes)]
		}
	}
	return changed
}

// damage is one piece of it.
type damage struct {
	kind, area, what string
	files            image // what is different; nil: gone
}

func (d damage) String() string { return d.what + ", " + d.kind }

func area(name string, block int64) string {
	switch {
	case strings.HasSuffix(name, "identity"):
		return "identity file"
	case strings.HasSuffix(name, "pages-0") && block == 0:
		return "page file: header"
	case strings.HasSuffix(name, "pages-0") && block <= 2:
		return "page file: meta pages"
	case strings.HasSuffix(name, "pages-0"):
		return "page file: other pages"
	case block == 0:
		return "log: header of a segment"
	case block == 1:
		return "log: start of a segment"
	}
	return "log: other blocks"
}

var kinds = []string{"bit flipped", "bytes overwritten", "block overwritten", "sector zeroed", "block zeroed", "swapped", "misplaced", "put back", "cut", "removed", "of another member"}

// pick chooses until something is different.
func (m *member) pick(random *rand.Rand) damage {
	for {
		if d, ok := m.damaged(random); ok {
			return d
		}
	}
}

// somewhere is a block that holds something, or, now and then, any block; headers and metas often.
func (m *member) somewhere(random *rand.Rand) (string, int64) {
	name := m.names[random.Intn(len(m.names))]
	file := m.base[name]
	blocks := (file.bytes + blockBytes - 1) / blockBytes
	switch {
	case random.Intn(4) == 0:
		return name, random.Int63n(min(blocks, 3))
	case random.Intn(8) == 0:
		return name, random.Int63n(blocks)
	}
	used := m.used[name]
	return name, used[random.Intn(len(used))]
}

func (m *member) damaged(random *rand.Rand) (damage, bool) {
	name, block := m.somewhere(random)
	kind := kinds[random.Intn(8)]
	if random.Intn(10) == 0 {
		kind = kinds[8+random.Intn(3)]
	}
	file := m.base[name]
	sound := file.block(block)
	bytes := append([]byte(nil), sound...)
	d := damage{kind: kind, area: area(name, block), what: fmt.Sprintf("%s block %d", name, block), files: image{}}
	switch kind {
	case "bit flipped":
		bytes[random.Intn(len(bytes))] ^= 1 << random.Intn(8)
	case "bytes overwritten":
		from := random.Intn(len(bytes))
		random.Read(bytes[from:min(from+64, len(bytes))])
	case "block overwritten":
		random.Read(bytes)
	case "sector zeroed":
		from := random.Intn((len(bytes)+511)/512) * 512
		clear(bytes[from:min(from+512, len(bytes))])
	case "block zeroed":
		clear(bytes)
	case "swapped", "misplaced":
		other, at := m.somewhere(random)
		copy(bytes, m.base[other].block(at))
		d.what += fmt.Sprintf(" and %s block %d", other, at)
		if kind == "swapped" && other != name {
			d.files[other] = m.base[other].with(at, sound)
		} else if kind == "swapped" {
			file = file.with(at, sound)
		}
	case "put back":
		older := m.older[name]
		if older == nil || block*blockBytes >= older.bytes {
			return d, false
		}
		copy(bytes, older.block(block))
	default:
		return m.damagedFile(d, name, random)
	}
	d.files[name] = file.with(block, bytes)
	return d, string(bytes) != string(sound)
}

func (m *member) damagedFile(d damage, name string, random *rand.Rand) (damage, bool) {
	file := m.base[name]
	d.what = name
	switch d.kind {
	case "cut":
		d.files[name] = file.cut(random.Int63n(file.bytes))
	case "removed":
		// What the newest segment held is in no other file, and nothing else tells of it: docs/damage.md.
		if name == m.newest {
			return d, false
		}
		d.files[name] = nil
	case "of another member":
		d.files[name] = m.foreign[name]
		return d, m.foreign[name] != nil
	}
	return d, true
}
