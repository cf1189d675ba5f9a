import type { ModelFacts } from "../api/types";

/** The providers of `models`, each once, in their order. */
export function providersOf(models: readonly ModelFacts[]): readonly string[] {
  return [...new Set(models.map((one) => one.provider))];
}

/** The names of a provider's models. */
export function modelsOf(models: readonly ModelFacts[], provider: string): readonly string[] {
  return models.filter((one) => one.provider === provider).map((one) => one.model);
}

/** Context, kinds of input, price; what is not known is left out. */
export function factsInWords(model: ModelFacts): string {
  const words: string[] = [];
  if (model.context !== null) words.push(`${tokens(model.context)} tokens of context`);
  if (model.input !== null) words.push(model.input.join(", "));
  if (model.price !== null) words.push(`$${model.price.input} in, $${model.price.output} out per million tokens`);
  return words.join(" · ");
}

function tokens(count: number): string {
  return count >= 1_000_000 ? `${count / 1_000_000}M` : `${Math.round(count / 1000)}k`;
}
