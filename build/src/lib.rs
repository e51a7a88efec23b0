//! Fits a speckv profile to a model, in floating point, offline
