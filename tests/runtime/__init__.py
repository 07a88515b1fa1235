"""Tests of devices, hosts and command lines."""
