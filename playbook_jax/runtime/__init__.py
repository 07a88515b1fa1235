"""The machine: devices, hosts, the compilation cache, command lines."""
