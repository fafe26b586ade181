"""How the miniature zoo is trained; what has been trained is read by `lib.bestiary.zoo`."""
