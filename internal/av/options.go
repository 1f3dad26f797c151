package av

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/asticode/go-astiav"
)

// UnknownOptionsError names options that FFmpeg did not take: it ignores what it does not know, so a misspelt limit would be
// no limit.
type UnknownOptionsError struct{ Keys []string }

func (e *UnknownOptionsError) Error() string {
	return "FFmpeg does not know the option " + strings.Join(e.Keys, ", ")
}

// WithOptions calls open with a dictionary of the options and fails with *UnknownOptionsError when open leaves any of them in
// it. What open has opened is then the caller's to close. The error of open comes first.
func WithOptions(options map[string]string, open func(*astiav.Dictionary) error) error {
	d := astiav.NewDictionary()
	defer d.Free()
	for _, k := range slices.Sorted(maps.Keys(options)) {
		if err := d.Set(k, options[k], 0); err != nil {
			return fmt.Errorf("setting option %s: %w", k, err)
		}
	}
	if err := open(d); err != nil {
		return err
	}
	if left := Entries(d); len(left) > 0 {
		e := &UnknownOptionsError{}
		for _, kv := range left {
			e.Keys = append(e.Keys, kv.Key)
		}
		return e
	}
	return nil
}

// Entries returns the entries of a dictionary in their order; none for nil.
func Entries(d *astiav.Dictionary) []KeyValue {
	if d == nil {
		return nil
	}
	var all []KeyValue
	for e := d.Get("", nil, astiav.NewDictionaryFlags(astiav.DictionaryFlagIgnoreSuffix)); e != nil; {
		all = append(all, KeyValue{Key: e.Key(), Value: e.Value()})
		e = d.Get("", e, astiav.NewDictionaryFlags(astiav.DictionaryFlagIgnoreSuffix))
	}
	return all
}

// SetEntries adds entries to a dictionary, repeated keys included.
func SetEntries(d *astiav.Dictionary, entries []KeyValue) error {
	for _, kv := range entries {
		if err := d.Set(kv.Key, kv.Value, astiav.NewDictionaryFlags(astiav.DictionaryFlagMultikey)); err != nil {
			return fmt.Errorf("setting metadata %s: %w", kv.Key, err)
		}
	}
	return nil
}
