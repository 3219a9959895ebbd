"""The ladder that ships: three small models, their tokenizer, and the tasks they were trained on."""
