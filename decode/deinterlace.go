package decode

type deinterlacer struct{}

func (d *deinterlacer) close() {}
