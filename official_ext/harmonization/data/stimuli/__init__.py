"""Stimuli of the psychophysics experiment."""
