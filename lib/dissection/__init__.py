"""CLIP-Dissect (Oikarinen and Weng, ICLR 2023): words for single neurons, and how right they are."""
