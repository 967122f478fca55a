"""What the client tests share: the broker launcher, deadlines, and one adapter per client."""
