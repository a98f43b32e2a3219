"""Contrasts of arms, resampled sentences, power laws and scaling laws: numbers in, numbers out, no file and no study."""
