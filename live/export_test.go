package live

import "context"

// For the tests of what a sink holds.

var NewGOPs = newGOPs

func (q *gops) Write(p []byte) error                     { return q.write(p) }
func (q *gops) Next(ctx context.Context) ([]byte, error) { return q.next(ctx) }
func (q *gops) Flush()                                   { q.flush() }
func (q *gops) Restart()                                 { q.restart() }
func (q *gops) End(err error)                            { q.end(err) }
func (q *gops) State() (dropped int64, queued int)       { return q.state() }
