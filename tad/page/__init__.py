"""The page: one offline HTML folder to watch detections beside the video, to study errors, and to correct labels."""
