"""Small members of other libraries, a table a file: a name to what builds the model and what makes its inputs."""
