//! The seams of speckv (Predict, Backend), their portable definition, profiles and the lock-step session
