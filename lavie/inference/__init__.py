"""From a prompt to a video, and from a tensor to a file that people can watch."""
