"""What a situation calls for: the rules that plan with the Amap library and say why."""
