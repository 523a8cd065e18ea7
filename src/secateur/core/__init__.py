"""What every room stands on: errors, the registry, plans, files and inputs."""
