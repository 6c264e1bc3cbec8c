"""Answers chats with a base or a trained model, by a server of the operator's or by the answer host."""
