"""Tables, figures, pictures and words for any exhibit; nothing here knows which."""
