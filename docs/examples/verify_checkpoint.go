// Check a checkpoint of a Fairlog server, and events against it, with code that is not Fairlog's:
// signed notes and Merkle trees are those of Go's checksum database (golang.org/x/mod/sumdb).
//
//	verify_checkpoint -key jobs.example.com+4c61…+Ae… -server https://jobs.example.com events.json
//
// It fetches /checkpoint, or reads one that was kept (-checkpoint FILE), checks its signature, and
// fetches the tiles that it needs, each of which is checked against the signed root. Then it shows:
//
//   - with -old FILE, that the log of an earlier checkpoint is the beginning of this one;
//   - for each file, that the log has its events: an answer of /v1/audit or /v1/jobs/ID/events, or a
//     proof of `fairlog audit prove`, whose paths are checked too.
//
// With -save FILE it writes the checkpoint that it has checked, for the next time. FAIRLOG_KEY is
// the API key, if the server requires one. Exit code 0: all is proven, 1: something is not.
//
// The leaf of an event is the SHA-256 of a zero byte and its fields (position, version, type,
// user_id, job_id, recorded_at in microseconds, data). Each field is preceded by its length as 4
// bytes big-endian; integers have 8 bytes big-endian; an absent field is FFFFFFFF alone.
package main

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

type event struct {
	Position   int64           `json:"position"`
	Version    int64           `json:"version"`
	Type       string          `json:"type"`
	UserID     *string         `json:"user_id"`
	JobID      *int64          `json:"job_id"`
	RecordedAt json.RawMessage `json:"recorded_at"` // microseconds, or a time as text
	Data       json.RawMessage `json:"data"`        // an object, or its text
	Path       []string        `json:"path"`        // hex; only in a proof
}

type head struct {
	Position int64  `json:"position"`
	Root     string `json:"root"` // hex
}

// document is an answer of the API or a proof of `fairlog audit prove`.
type document struct {
	Events []event  `json:"events"`
	Head   *head    `json:"head"`  // of a proof of events
	First  *head    `json:"first"` // of a proof of growth, as are the next two
	Second *head    `json:"second"`
	Path   []string `json:"path"`
}

// entry returns what the leaf of an event is the hash of.
func (e event) entry() ([]byte, error) {
	recordedAt, err := strconv.ParseInt(string(e.RecordedAt), 10, 64)
	if err != nil {
		var moment time.Time
		if err := json.Unmarshal(e.RecordedAt, &moment); err != nil {
			return nil, fmt.Errorf("recorded_at: %w", err)
		}
		recordedAt = moment.UnixMicro()
	}
	data := []byte(e.Data)
	if bytes.HasPrefix(data, []byte(`"`)) {
		var text string
		if err := json.Unmarshal(data, &text); err != nil {
			return nil, fmt.Errorf("data: %w", err)
		}
		data = []byte(text)
	}
	var entry []byte
	field := func(content []byte) {
		entry = binary.BigEndian.AppendUint32(entry, uint32(len(content)))
		entry = append(entry, content...)
	}
	integer := func(value int64) { field(binary.BigEndian.AppendUint64(nil, uint64(value))) }
	absent := func() { entry = binary.BigEndian.AppendUint32(entry, 0xFFFFFFFF) }
	integer(e.Position)
	integer(e.Version)
	field([]byte(e.Type))
	if e.UserID == nil {
		absent()
	} else {
		field([]byte(*e.UserID))
	}
	if e.JobID == nil {
		absent()
	} else {
		integer(*e.JobID)
	}
	integer(recordedAt)
	field(data)
	return entry, nil
}

// openCheckpoint checks the signature of a checkpoint, and returns the tree that it commits to.
func openCheckpoint(message []byte, verifier note.Verifier) (tlog.Tree, error) {
	opened, err := note.Open(message, note.VerifierList(verifier))
	if err != nil {
		return tlog.Tree{}, err
	}
	lines := strings.Split(opened.Text, "\n")
	if len(lines) < 4 || lines[0] != verifier.Name() {
		return tlog.Tree{}, errors.New("this is not a checkpoint of the log " + verifier.Name())
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil || size < 0 {
		return tlog.Tree{}, errors.New("the size of the checkpoint is not a number")
	}
	root, err := base64.StdEncoding.DecodeString(lines[2])
	if err != nil || len(root) != tlog.HashSize {
		return tlog.Tree{}, errors.New("the root of the checkpoint is not a hash")
	}
	tree := tlog.Tree{N: size}
	copy(tree.Hash[:], root)
	return tree, nil
}

// server is a tlog.TileReader: it fetches tiles of height 8.
type server struct{ url, key string }

func (s server) Height() int                     { return 8 }
func (s server) SaveTiles([]tlog.Tile, [][]byte) {}
func (s server) get(path string) ([]byte, error) {
	request, err := http.NewRequest("GET", s.url+path, nil)
	if err != nil {
		return nil, err
	}
	if s.key != "" {
		request.Header.Set("Authorization", "Bearer "+s.key)
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, 1<<20))
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", path, answer.Status, body)
	}
	return body, err
}

func (s server) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	var all [][]byte
	for _, tile := range tiles {
		// Go's own database has the height in the path: tile/8/0/x001/234.
		data, err := s.get("/tile/" + strings.TrimPrefix(tile.Path(), "tile/8/"))
		if err != nil {
			return nil, err
		}
		all = append(all, data)
	}
	return all, nil
}

func hashes(texts []string) ([]tlog.Hash, error) {
	found := make([]tlog.Hash, len(texts))
	for at, text := range texts {
		content, err := hex.DecodeString(text)
		if err != nil || len(content) != tlog.HashSize {
			return nil, errors.New("a path has something that is not a hash")
		}
		copy(found[at][:], content)
	}
	return found, nil
}

// checkEvents checks each event against the signed tree by its tiles, and by its path if it has one.
func checkEvents(name string, found document, tree tlog.Tree, tiles tlog.HashReader) error {
	for _, one := range found.Events {
		if one.Position < 1 || one.Position > tree.N {
			return fmt.Errorf("%s: event %d is not in a log of %d", name, one.Position, tree.N)
		}
		entry, err := one.entry()
		if err != nil {
			return fmt.Errorf("%s: event %d: %w", name, one.Position, err)
		}
		leaf := tlog.RecordHash(entry)
		proof, err := tlog.ProveRecord(tree.N, one.Position-1, tiles)
		if err != nil {
			return fmt.Errorf("%s: event %d: %w", name, one.Position, err)
		}
		if err := tlog.CheckRecord(proof, tree.N, tree.Hash, one.Position-1, leaf); err != nil {
			return fmt.Errorf("%s: event %d is not what the log has: %w", name, one.Position, err)
		}
		if found.Head == nil {
			continue
		}
		path, err := hashes(one.Path)
		if err != nil {
			return fmt.Errorf("%s: event %d: %w", name, one.Position, err)
		}
		root, err := rootAt(*found.Head, tree, tiles)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if err := tlog.CheckRecord(path, found.Head.Position, root, one.Position-1, leaf); err != nil {
			return fmt.Errorf("%s: the path of event %d: %w", name, one.Position, err)
		}
	}
	return nil
}

// checkGrowth checks a proof that one head's log is the beginning of another's.
func checkGrowth(name string, found document, tree tlog.Tree, tiles tlog.HashReader) error {
	if found.Second == nil {
		return fmt.Errorf("%s: there is no second head", name)
	}
	first, err := rootAt(*found.First, tree, tiles)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	second, err := rootAt(*found.Second, tree, tiles)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	path, err := hashes(found.Path)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	err = tlog.CheckTree(path, found.Second.Position, second, found.First.Position, first)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// rootAt returns the root of an earlier size of the signed tree, which has to be that of a head.
func rootAt(claimed head, tree tlog.Tree, tiles tlog.HashReader) (tlog.Hash, error) {
	if claimed.Position < 1 || claimed.Position > tree.N {
		return tlog.Hash{}, fmt.Errorf("a head at %d is not in a log of %d", claimed.Position, tree.N)
	}
	root, err := tlog.TreeHash(claimed.Position, tiles)
	if err == nil && hex.EncodeToString(root[:]) != claimed.Root {
		err = fmt.Errorf("the head at %d has another root than the log", claimed.Position)
	}
	return root, err
}

func run() error {
	key := flag.String("key", "", "the verifier key, which `fairlog audit key` printed")
	url := flag.String("server", "http://127.0.0.1:8000", "the address of the server")
	kept := flag.String("checkpoint", "", "the file of a checkpoint; default: the server's latest")
	old := flag.String("old", "", "the file of an earlier checkpoint")
	save := flag.String("save", "", "a file to write the checkpoint into")
	flag.Parse()
	verifier, err := note.NewVerifier(*key)
	if err != nil {
		return fmt.Errorf("-key: %w", err)
	}
	from := server{strings.TrimSuffix(*url, "/"), os.Getenv("FAIRLOG_KEY")}
	var message []byte
	if *kept == "" {
		message, err = from.get("/checkpoint")
	} else {
		message, err = os.ReadFile(*kept)
	}
	if err != nil {
		return err
	}
	tree, err := openCheckpoint(message, verifier)
	if err != nil {
		return fmt.Errorf("the checkpoint: %w", err)
	}
	tiles := tlog.TileHashReader(tree, from)
	fmt.Printf("Signed by %s: a log of %d events.\n", verifier.Name(), tree.N)
	if *old != "" {
		message, err := os.ReadFile(*old)
		if err != nil {
			return err
		}
		earlier, err := openCheckpoint(message, verifier)
		if err != nil {
			return fmt.Errorf("%s: %w", *old, err)
		}
		if earlier.N > tree.N {
			return fmt.Errorf("%s has %d events, more than %d", *old, earlier.N, tree.N)
		}
		if earlier.N > 0 {
			proof, err := tlog.ProveTree(tree.N, earlier.N, tiles)
			if err != nil {
				return fmt.Errorf("%s: %w", *old, err)
			}
			err = tlog.CheckTree(proof, tree.N, tree.Hash, earlier.N, earlier.Hash)
			if err != nil {
				return fmt.Errorf("the log of %s is not the beginning of this one: %w", *old, err)
			}
		}
		fmt.Printf("Proven: it begins with the log of %d events.\n", earlier.N)
	}
	for _, name := range flag.Args() {
		content, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		var found document
		if err := json.Unmarshal(content, &found); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if found.First != nil {
			if err := checkGrowth(name, found, tree, tiles); err != nil {
				return err
			}
			fmt.Printf("Proven: %s, the log of %d events begins with that of %d.\n",
				name, found.Second.Position, found.First.Position)
			continue
		}
		if len(found.Events) == 0 {
			return fmt.Errorf("%s has no events", name)
		}
		if err := checkEvents(name, found, tree, tiles); err != nil {
			return err
		}
		fmt.Printf("Proven: %s, the log has its %d events.\n", name, len(found.Events))
	}
	if *save != "" {
		return os.WriteFile(*save, message, 0o644)
	}
	return nil
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "NOT proven:", err)
		os.Exit(1)
	}
}
