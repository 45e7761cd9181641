"""Reading of video files: frames and clips."""
