"""The ladder that ships: three small models, one tokenizer, and the tasks they learnt."""
