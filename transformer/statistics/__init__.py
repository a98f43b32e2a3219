"""Contrasts of arms, resampled sentences, power laws and scaling laws: numbers in, numbers out; nothing here knows files or
studies."""
