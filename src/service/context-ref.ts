/** A context, as somebody asks for it: who it is that asks decides whether it is found. */
export interface ContextRef {
  /** Who asks; '' without tenants. */
  readonly tenant: string;
  /** As the client sent it. */
  readonly id: string;
}
