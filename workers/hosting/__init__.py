"""What starts an engine beside an agent: the engines as one port, a worker's specification, its process."""
