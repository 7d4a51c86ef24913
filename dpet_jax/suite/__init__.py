"""Many runs that are compared with one another."""
