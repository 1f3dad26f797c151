// peak_multiply_adds runs `rounds` times twelve vpmaddwd (16 multiply-adds each) and additions of their results, and returns the
// number of multiply-adds; 0 where the machine has no such instruction.
long peak_multiply_adds(long rounds);
