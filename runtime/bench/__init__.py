"""What `kiloword bench` measures: this machine, this bundle, and how far one is from the other."""
