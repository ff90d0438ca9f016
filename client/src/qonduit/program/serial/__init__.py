"""How the values of tasks travel: what each kind of object is reduced to, and the container of it all."""
