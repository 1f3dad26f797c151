package av

import (
	"errors"
	"reflect"
	"slices"
	"testing"

	"github.com/asticode/go-astiav"
)

// raw casts wrappers to their first field; a go-astiav that moves it must fail here, not crash there.
func TestWrappersBeginWithTheirPointer(t *testing.T) {
	for _, typ := range []reflect.Type{
		reflect.TypeFor[astiav.FormatContext](), reflect.TypeFor[astiav.CodecParameters](), reflect.TypeFor[astiav.Packet](),
		reflect.TypeFor[astiav.Stream](), reflect.TypeFor[astiav.CodecContext](), reflect.TypeFor[astiav.Frame](),
	} {
		f := typ.Field(0)
		if f.Name != "c" || f.Offset != 0 || f.Type.Kind() != reflect.Pointer {
			t.Errorf("%v begins with %s %v at %d, want a pointer c at 0", typ, f.Name, f.Type, f.Offset)
		}
	}
	f := astiav.AllocFrame()
	defer f.Free()
	if raw(f) != f.UnsafePointer() {
		t.Error("raw does not give the frame's own pointer")
	}
}

func TestOptionsFailClosed(t *testing.T) {
	open := func(d *astiav.Dictionary) error {
		fc := astiav.AllocFormatContext()
		defer fc.CloseInput()
		// A codec context takes its options from the dictionary when it is opened.
		codec := astiav.FindDecoder(astiav.CodecIDPng)
		cc := astiav.AllocCodecContext(codec)
		defer cc.Free()
		return cc.Open(codec, d)
	}
	if err := WithOptions(map[string]string{"max_pixels": "1000", "threads": "1"}, open); err != nil {
		t.Errorf("known options: %v", err)
	}
	err := WithOptions(map[string]string{"max_pixles": "1000", "threads": "1"}, open)
	var unknown *UnknownOptionsError
	if !errors.As(err, &unknown) || !slices.Equal(unknown.Keys, []string{"max_pixles"}) {
		t.Errorf("misspelt option: %v, want it named", err)
	}
}

func TestEntriesKeepOrderAndRepeatedKeys(t *testing.T) {
	want := []KeyValue{{"title", "a"}, {"artist", "x"}, {"artist", "y"}, {"empty", ""}}
	d := astiav.NewDictionary()
	defer d.Free()
	if err := SetEntries(d, want); err != nil {
		t.Fatal(err)
	}
	if got := Entries(d); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
