//! What holds of the machine and its arithmetic for every input and every interleaving.

mod interleavings;
mod properties;
