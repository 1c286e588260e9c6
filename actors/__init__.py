"""What a GPU process does. Nothing here knows of Ray, of jobs or of storage layouts."""
