// peak_multiply_adds runs `rounds` times twelve of the instructions that the path of the native engine does its work with, and returns the
// number of multiply-adds; 0 for a path that has none. The machine must have the path's instructions.
long peak_multiply_adds(const char *path, long rounds);
