//! The rows of the input, taken lane by lane in turn.
