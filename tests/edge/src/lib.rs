//! Tests of the built binary from outside, as clients and strangers meet it; they are in `tests/edge`. There is nothing here.
