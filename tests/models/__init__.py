"""The models of `models/`, checked by SPIN."""
