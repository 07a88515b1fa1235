"""The Deep Learning Tuning Playbook as a program.

Importing the package imports nothing else, neither jax nor TensorFlow: each module imports what it
needs.
"""

__version__ = "0.1.0"
