"""Device arrays, which stay on their GPU: whose they are, what is checked, and the modules that work on them."""
