{{/* Names, labels and what all Pods share. */}}

{{- define "penstock.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "penstock.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "penstock.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "penstock.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "penstock.fleet" -}}
{{- default .Release.Namespace .Values.fleet -}}
{{- end -}}

{{- define "penstock.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: penstock
{{- end -}}

{{/* Labels that select: call with (dict "root" $ "component" "gateway"). */}}
{{- define "penstock.selector" -}}
app.kubernetes.io/name: {{ include "penstock.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "penstock.metadata" -}}
name: {{ include "penstock.fullname" .root }}-{{ .component }}{{ default "" .suffix }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "penstock.selector" . | nindent 2 }}
  {{- include "penstock.labels" .root | nindent 2 }}
{{- end -}}

{{/* Image of a component: call with (dict "root" $ "own" .Values.x.image "name" "penstock-gateway"). */}}
{{- define "penstock.image" -}}
{{- $images := .root.Values.images -}}
{{- if .own -}}
{{- .own -}}
{{- else if $images.single -}}
{{- $images.single -}}
{{- else -}}
{{- with $images.registry }}{{ trimSuffix "/" . }}/{{ end }}{{ .name }}:{{ default .root.Chart.AppVersion $images.tag }}
{{- end -}}
{{- end -}}

{{- define "penstock.redisSecret" -}}
{{- default (printf "%s-redis" (include "penstock.fullname" .)) .Values.redis.existingSecret -}}
{{- end -}}

{{/* What every Pod has of its placement and labels: call with (dict "root" $ "pods" .Values.x.pods). */}}
{{- define "penstock.placement" -}}
{{- with .root.Values.images.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .pods.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .pods.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .pods.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .pods.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
# Or Kubernetes would put variables like PENSTOCK_GATEWAY_PORT into the Pod, which are settings of ours.
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- end -}}

{{- define "penstock.container" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end -}}

{{- define "penstock.serviceAccount" -}}
{{- if .root.Values.serviceAccounts.create -}}
{{ include "penstock.fullname" .root }}-{{ .component }}
{{- else -}}
{{ .root.Values.serviceAccounts.existing }}
{{- end -}}
{{- end -}}

{{/* The CA of an external Redis, where there is one of its own. */}}
{{- define "penstock.redisCaMount" -}}
{{- if .Values.redis.caSecret -}}
- {name: redis-ca, mountPath: /etc/penstock-redis-ca, readOnly: true}
{{- end -}}
{{- end -}}

{{- define "penstock.redisCaVolume" -}}
{{- with .Values.redis.caSecret -}}
- name: redis-ca
  secret: {secretName: {{ . }}}
{{- end -}}
{{- end -}}

{{/* Secret of the agents' own certificate, in each namespace with workers; empty without. */}}
{{- define "penstock.agentTlsSecret" -}}
{{- if eq .Values.agents.tls.mode "selfSigned" -}}
{{ include "penstock.fullname" . }}-agent-tls
{{- else if eq .Values.agents.tls.mode "secret" -}}
{{ .Values.agents.tls.secretName }}
{{- end -}}
{{- end -}}

{{/* Secret of the certificate that controllers show to agents; empty without, or where anybody reaches controllers. */}}
{{- define "penstock.agentClientSecret" -}}
{{- if .Values.controller.tlsSecret -}}
{{- if eq .Values.agents.tls.mode "selfSigned" -}}
{{ include "penstock.fullname" . }}-agent-client
{{- else if eq .Values.agents.tls.mode "secret" -}}
{{ .Values.agents.tls.clientSecretName }}
{{- end -}}
{{- end -}}
{{- end -}}
